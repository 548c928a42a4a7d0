"""What a release has beside what decides it: promotions, signatures, the card, a replay; and what suites may say."""
