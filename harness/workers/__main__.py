"""`python -m harness.workers`: one worker, in whichever environment has the harness and the loader's plugin."""

from harness.workers.child import main

if __name__ == "__main__":
    main()
