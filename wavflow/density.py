"""`python -m wavflow.density`: trains a flow of vectors on shapes, digits or tables, and judges it; see conf/density.yaml."""

from wavflow.cli import command

main = command("density")

if __name__ == "__main__":
    main()
