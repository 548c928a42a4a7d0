"""What a release has beside what decides it: promotions, signatures, the card, schemas of its files, a replay."""
