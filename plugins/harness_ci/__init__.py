"""What continuous integration reads of a run: JUnit XML, and annotations and a summary in a job of GitHub Actions."""
