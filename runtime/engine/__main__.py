"""`python -m runtime.engine --fd N`: started by the supervisor, never by a person."""

from runtime.engine.main import main

if __name__ == "__main__":
    main()
