"""What the command line answers where no command was typed, or one that there is not."""

import click

from bertsmith.errors import UserError, suggestion


class Commands(click.Group):
    """A group that says which command was probably meant, and shows what there is where none was typed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show the help where nothing was typed: the library calls that a mistake, which would be one long line."""
        if not args:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say what there is."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise UserError(f"no command '{args[0]}'{suggestion(args[0], self.commands)}")
        return super().resolve_command(ctx, args)
