"`python -m gptbook` is the command `gptbook`."

from .cli import main

if __name__ == "__main__":
    main()
