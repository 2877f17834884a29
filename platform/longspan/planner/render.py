"""The description of a plan as tables for the terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_MIX_ROWS = 10
_LENGTH_COLUMNS = 8


def render(description: Mapping[str, Any]) -> "list[Table | Text]":
    """Tables of what `describe.describe_plan` returned, and a line for each of its notes and warnings at the end."""
    from rich.text import Text

    tables: list[Table | Text] = [_overview(description), _sources(description)]
    if _changes(description["mix"]):
        tables.append(_mix(description["mix"]))
    tables.append(_lengths(description))
    if len(description["sources"]) > 1:
        tables.append(_lengths_by_source(description["sources"]))
    tables.append(_memory(description))
    tables.extend(Text(f"To serve it: {text}") for text in description["rope"]["readers"])
    return [*tables, *(Text(f"Warning: {text}", style="bold red") for text in description["warnings"])]


def _overview(description: Mapping[str, Any]) -> "Table":
    run, positions, rope, compute = (description[name] for name in ("run", "positions", "rope", "compute"))
    table = _table(f"Plan of {run['name']}", "", "value")
    trained = " trained" if run["selection"] else ""
    rows = [
        ("samples", f"{run['samples']:,} of {run['sample_length']:,} tokens, {run['steps']:,} steps"),
        *_selection_rows(description),
        (f"tokens{trained}", f"{run['tokens']:,} (full length: {compute['full_length_tokens']:,})"),
        (f"packing{trained}", f"{description['packing']['type']}, {_share(run['padding_share'])} padding"),
        (f"documents a sample{' read' if trained else ''}", f"{run['documents_per_sample']:.1f}"),
        ("text around a token", f"{run['mean_attended_length']:,.0f} tokens on average"),
        *([("attention", _attention_text(run))] if run["attention_window"] or run["attention_group"] else []),
        ("shuffle", _shuffle_text(description["shuffle"])),
        ("positions", f"{_positions_text(positions)}, over {positions['samples_measured']:,} samples:"),
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


def _selection_rows(description: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the plan reads, where only a part of it is trained."""
    run, packing = description["run"], description["packing"]
    if not run["selection"]:
        return []
    return [
        ("  selected from", f"{run['plan_length']:,} tokens each ({run['selection']})"),
        (
            "tokens read",
            f"{run['tokens_read']:,} ({_share(packing['padding_share'])} padding beside), of which"
            f" {run['share_kept']:.1%} are trained",
        ),
    ]


def _sources(description: Mapping[str, Any]) -> "Table":
    columns = ("documents", "tokens", "drawn", "samples", "of samples", "asked", "of tokens", "epochs", "upsampled")
    table = _table("Sources", "source", *columns)
    for name, source in description["sources"].items():
        asked, achieved, limit = source["upsample_asked"], source["upsample_achieved"], source["max_epochs"]
        table.add_row(
            name,
            f"{source['documents']:,}",
            f"{source['tokens']:,}",
            f"{source['tokens_drawn']:,}",
            f"{source['samples']:,}",
            f"{source['share_of_samples']:.1%}",
            f"{source['share_asked']:.1%}",
            f"{source['share_achieved']:.1%}",
            f"{source['epochs']:.2f}" if limit is None else f"{source['epochs']:.2f} of {limit:g}",
            "-" if asked is None else f"{'-' if achieved is None else f'{achieved:.2f}x'} of {asked:g}x",
        )
    return table


def _changes(mix: Sequence[Mapping[str, Any]]) -> bool:
    """True where the mix that is asked for is not the same all through the run."""
    first = mix[0]["asked"]
    return any(abs(share - first[name]) > 1e-6 for part in mix for name, share in part["asked"].items())


def _mix(mix: Sequence[Mapping[str, Any]]) -> "Table":
    """The mix in some tenths of the run; the plot has it finer."""
    names = list(mix[0]["asked"])
    table = _table("Mix of tokens in the plan (asked)", "steps", *names)
    size = -(-len(mix) // _MIX_ROWS)
    for begin in range(0, len(mix), size):
        parts = mix[begin : begin + size]
        steps = [part["below_step"] - part["from_step"] for part in parts]
        shares = {
            (side, name): sum(n * part[side][name] for n, part in zip(steps, parts, strict=True)) / sum(steps)
            for side in ("asked", "achieved")
            for name in names
        }
        cells = [f"{shares['achieved', name]:.1%} ({shares['asked', name]:.1%})" for name in names]
        table.add_row(f"{parts[0]['from_step']:,} to {parts[-1]['below_step'] - 1:,}", *cells)
    return table


def _lengths(description: Mapping[str, Any]) -> "Table":
    columns = ("documents", "tokens", "in the sources", "in the plan", "times drawn")
    table = _table("Tokens by length of their document", "length", *columns)
    for bucket in description["lengths"]:
        table.add_row(
            f"{bucket['from']:,} to {bucket['below'] - 1:,}",
            f"{bucket['documents']:,}",
            f"{bucket['tokens']:,}",
            f"{bucket['share_before']:.1%}",
            f"{bucket['share_after']:.1%}",
            f"{bucket['times_drawn']:.2f}",
        )
    return table


def _lengths_by_source(sources: Mapping[str, Any]) -> "Table":
    """A row for each source: share of its tokens in documents of each length, in the source > in the plan."""
    begins = sorted({bucket["from"] for source in sources.values() for bucket in source["lengths"]})
    # As many as a screen holds: what is shorter than the last few lengths goes together.
    shown = begins[-_LENGTH_COLUMNS:]
    heads = [f"{begin:,}+" for begin in shown]
    if len(begins) > len(shown):
        heads[0] = f"below {shown[1]:,}"
    table = _table("Tokens by length of their document, in the source > in the plan", "source", *heads)
    for name, source in sources.items():
        cells = []
        for number, begin in enumerate(shown):
            own = [b for b in source["lengths"] if b["from"] == begin or (number == 0 and b["from"] < begin)]
            cells.append(f"{_whole(own, 'share_before')} > {_whole(own, 'share_after')}" if own else "-")
        table.add_row(name, *cells)
    return table


def _whole(buckets: Sequence[Mapping[str, Any]], side: str) -> str:
    return f"{100 * sum(bucket[side] for bucket in buckets):.0f}"


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


def _share(share: float) -> str:
    """Percent that shows a small share as not quite nothing."""
    return "no" if share == 0 else f"{share:.2%}" if share >= 0.0001 else "<0.01%"


def _shuffle_text(shuffle: Mapping[str, Any]) -> str:
    kind = f"in blocks of {shuffle['shuffle_tokens']:,} tokens" if shuffle["is_on"] else "off"
    return (
        f"{kind}; {shuffle['neighbours_in_same_chunk']:.1%} of neighbours come from one chunk of the corpus, the mean"
        f" distance is {shuffle['mean_neighbour_distance']:,.0f} of {shuffle['chunks']:,} chunks"
    )


def _attention_text(run: Mapping[str, Any]) -> str:
    window = run["attention_window"]
    if window is None:
        return f"in shifted groups of {run['attention_group']:,} tokens while training, whole afterwards"
    reached = window["reached_at_step"]
    ends = "not reached" if reached is None else f"reached at step {reached + 1:,} of {run['steps']:,}"
    text = f"blocks of {window['first']:,} tokens in the first step, {window['last']:,} in the last"
    return f"{text} ({window['end']:,} {ends}), {window['mean']:,.0f} on average"


def _positions_text(positions: Mapping[str, Any]) -> str:
    mixed = positions["interleave"]
    return f"{positions['type']}, chunks interleaved ({mixed})" if mixed else str(positions["type"])


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
