"""The description of a plan as tables for the terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def render(description: Mapping[str, Any]) -> "list[Table]":
    """Tables of what `describe.describe_plan` returned: the run, its sources, its document lengths, its memory."""
    return [_overview(description), _sources(description), _lengths(description), _memory(description)]


def _overview(description: Mapping[str, Any]) -> "Table":
    run, positions, rope, compute = (description[name] for name in ("run", "positions", "rope", "compute"))
    table = _table(f"Plan of {run['name']}", "", "value")
    rows = [
        ("samples", f"{run['samples']:,} of {run['sample_length']:,} tokens, {run['steps']:,} steps"),
        ("tokens", f"{run['tokens']:,} (full length: {compute['full_length_tokens']:,})"),
        ("documents a sample", f"{run['documents_per_sample']:.1f}"),
        ("text around a token", f"{run['mean_attended_length']:,.0f} tokens on average"),
        ("positions", f"{positions['type']}, over {positions['samples_measured']:,} samples:"),
        ("  largest position", _reached(positions, run["target_length"])),
        ("  distances seen", f"{positions['share_of_distances_seen']:.1%} of those below {run['target_length']:,}"),
        ("  mean distance", f"{positions['mean_token_distance']:,.0f} tokens"),
        ("  mean segment", f"{positions['mean_segment_length']:,.1f} tokens"),
        ("rope", _rope_text(rope)),
        ("parameters", f"{compute['parameters']:,}"),
        ("FLOPs", f"{compute['total_flops']:.3g} (full length: {compute['full_length_flops']:.3g})"),
        ("saved", f"{compute['share_saved']:.1%} of full-length training"),
        ("GPU-hours", f"{compute['gpu_hours_at_40_percent']:,.2g} on an H100 at 40 % of its peak"),
    ]
    for name, value in rows:
        table.add_row(name, value)
    return table


def _sources(description: Mapping[str, Any]) -> "Table":
    table = _table("Sources", "source", "documents", "tokens", "samples", "asked", "achieved", "epochs", "upsampled")
    for name, source in description["sources"].items():
        upsampled = source["upsample_achieved"]
        table.add_row(
            name,
            f"{source['documents']:,}",
            f"{source['tokens']:,}",
            f"{source['samples']:,}",
            f"{source['share_asked']:.1%}",
            f"{source['share_achieved']:.1%}",
            f"{source['epochs']:.2f}",
            "-" if upsampled is None else f"{upsampled:.2f}x",
        )
    return table


def _lengths(description: Mapping[str, Any]) -> "Table":
    table = _table("Tokens by length of their document", "length", "documents", "in the sources", "in the plan")
    for bucket in description["lengths"]:
        table.add_row(
            f"{bucket['from']:,} to {bucket['below'] - 1:,}",
            f"{bucket['documents']:,}",
            f"{bucket['share_before']:.1%}",
            f"{bucket['share_after']:.1%}",
        )
    return table


def _memory(description: Mapping[str, Any]) -> "Table":
    table = _table("Memory of one GPU, estimated", "part", "GiB")
    for name, size in description["memory"].items():
        table.add_row(name, f"{size / 2**30:,.2f}", end_section=name == "logits")
    return table


def _table(title: str, *columns: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 or column == "value" else "right")
    return table


def _reached(positions: Mapping[str, Any], target_length: int) -> str:
    return f"{positions['largest_position']:,}, {positions['share_of_window_reached']:.1%} of {target_length:,}"


def _rope_text(rope: Mapping[str, Any]) -> str:
    text = f"{rope['type']}, theta {rope['theta']:,.0f}"
    if rope["factor"] is not None:
        text += f", factor {rope['factor']:g}"
    if rope["theta_lower_bound"] is None:
        return text
    verdict = "large enough" if rope["is_theta_large_enough"] else "TOO SMALL"
    return f"{text}, {verdict}; lower bound {rope['theta_lower_bound']:,.0f}"
