"""What a run is told and tells: samples, models, gates, findings and reports, none of which acts."""
