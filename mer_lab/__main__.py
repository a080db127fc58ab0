"""``python -m mer_lab``, which a launcher of several processes needs: the command line."""

from mer_lab.cli import main

if __name__ == "__main__":
    main()
