"""Simulated jobs under several autoscalers, and what each costs: pod hours against minutes over the backlog's goal.

``plant`` is the job, ``traces`` its input, ``contenders`` who scales it, ``oracle`` the plan made in hindsight. All
see the same figures, as late and with the same gaps. Settings are chosen on the tuning traces (``--tune`` does it for
all that have a grid) and judged on the held-out ones; the table names both.

    python -m benchmarks.autoscaler [--quick] [--json FILE] [--traces DIR] [--plot FILE.svg] [--tune NAME]

``--quick``: 2 seeds, one held-out trace of each family. ``--traces``: judge on
the CSV files of a folder (``seconds,records_per_second``) too. ``--plot`` needs matplotlib
(``pip install 'beam-k8s[benchmarks]'``).
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.autoscaler import traces
from benchmarks.autoscaler.contenders import BASELINES, PRODUCT, Contender, grid
from benchmarks.autoscaler.plant import Nature
from benchmarks.autoscaler.score import Score, oracle, run
from benchmarks.report import Goal, Report, parser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.autoscaler.traces import Trace

PRICE = 0.2
"""Pod hours that a minute over the goal weighs when settings are chosen."""
GOAL_ORACLE = 1.5
"""Pod hours of ours to the oracle's, at most, on each trace, of all its jobs for which the oracle keeps the goal."""
_ORACLE = "oracle (hindsight)"
_JUDGED = 2000
"""First seed of the jobs that are judged: none that anything was tuned or tried on."""
_ALIKE = 1.01
"""Less than a hundredth is no difference."""

Scores = dict[str, list[Score]]
"""By contender: all its runs."""


def _work(task: tuple[Contender | None, Trace, list[Nature]]) -> list[Score]:
    contender, trace, natures = task
    return oracle(trace, natures) if contender is None else run(trace, natures, contender.make())


def _mean(scores: Iterable[Score], figure: str) -> float:
    return statistics.fmean(getattr(score, figure) for score in scores)


def _of_family(scores: Sequence[Score], family: str) -> list[Score]:
    return [score for score in scores if score.family == family]


def dominating(scores: Scores, family: str | None = None) -> list[str]:
    """Baselines that are better than ours in pod hours or in minutes over the goal, and no worse in the other."""
    found = []
    chosen = {name: rows if family is None else _of_family(rows, family) for name, rows in scores.items()}
    pods, late = (_mean(chosen[PRODUCT.name], figure) for figure in ("pod_hours", "slo_60"))
    for name in chosen.keys() - {PRODUCT.name, _ORACLE}:
        other_pods, other_late = (_mean(chosen[name], figure) for figure in ("pod_hours", "slo_60"))
        no_worse = other_pods <= pods and other_late <= late
        if no_worse and (other_pods * _ALIKE < pods or other_late * _ALIKE < late - 0.1):
            found.append(name)
    return sorted(found)


def over_oracle(scores: Scores) -> tuple[tuple[float, str], tuple[float, str]]:
    """The highest ratio of our pod hours to the oracle's where that keeps the goal: of a trace, of a single job."""
    ours = {(score.trace, score.seed): score.pod_hours for score in scores[PRODUCT.name]}
    jobs, traces_of = [], defaultdict(list)
    for score in scores[_ORACLE]:
        if score.slo_60 == 0:
            both = ours[score.trace, score.seed], score.pod_hours
            traces_of[score.trace].append(both)
            jobs.append((both[0] / both[1], f"{score.trace}, seed {score.seed}"))
    of_traces = ((sum(a for a, _ in both) / sum(b for _, b in both), trace) for trace, both in traces_of.items())
    return max(of_traces), max(jobs)


def tune(name: str, each: Callable[[list[tuple[Contender | None, Trace, list[Nature]]]], list[list[Score]]]) -> None:
    """Print the best settings of a contender's grid on the tuning traces."""
    natures = [Nature.of(seed) for seed in range(100, 103)]
    candidates, chosen = list(grid(name)), traces.tuning()
    results = each([(candidate, trace, natures) for candidate in candidates for trace in chosen])
    rows = []
    for n, candidate in enumerate(candidates):
        scores = [score for part in results[n * len(chosen) : (n + 1) * len(chosen)] for score in part]
        pods, late = _mean(scores, "pod_hours"), _mean(scores, "slo_60")
        rows.append((pods + PRICE * late, pods, late, candidate.settings))
    for cost, pods, late, settings in sorted(rows, key=lambda row: row[0])[:3]:
        print(f"{name}: cost {cost:.1f}, pod hours {pods:.1f}, minutes over 60 s {late:.1f}: {settings}")


def plot(scores: Scores, file: Path) -> None:
    """Pod hours against minutes over the goal, a panel a family."""
    from matplotlib import pyplot as plt

    families = sorted({score.family for score in scores[PRODUCT.name]})
    figure, panels = plt.subplots(2, -(-len(families) // 2), figsize=(4 * -(-len(families) // 2), 8))
    for panel, family in zip(panels.flat, families, strict=False):
        panel.set_title(family)
        panel.set_xlabel("pod hours")
        panel.set_ylabel("minutes over 60 s")
        for name, rows in scores.items():
            of = _of_family(rows, family)
            shape = "*" if name == PRODUCT.name else "x" if name == _ORACLE else "o"
            panel.plot(
                _mean(of, "pod_hours"), _mean(of, "slo_60"), shape, label=name, markersize=12 if shape == "*" else 6
            )
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="lower center", ncols=5)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(file)


def _rows(scores: Scores) -> list[list[object]]:
    rows: list[list[object]] = []
    for name, of in scores.items():
        by_trace = defaultdict(list)
        for score in of:
            by_trace[score.trace].append(score)
        worst = max(by_trace, key=lambda trace: _mean(by_trace[trace], "slo_60"))
        figures = ("pod_hours", "slo_10", "slo_60", "slo_300", "p50", "p99", "longest", "rescales", "flips", "paused")
        rows.append(
            [
                *(name, *(f"{_mean(of, figure):.1f}" for figure in figures)),
                f"{worst}: {_mean(by_trace[worst], 'slo_60'):.0f}",
            ]
        )
    return rows


def main() -> None:
    arguments_of = parser(__doc__ or "")
    arguments_of.add_argument("--traces", type=Path, help="folder of CSV files to be judged on too")
    arguments_of.add_argument("--plot", type=Path, help="write the Pareto plot to this file")
    arguments_of.add_argument("--tune", metavar="NAME", help="print the best settings of this contender, and stop")
    arguments = arguments_of.parse_args()
    natures = [Nature.of(seed) for seed in range(_JUDGED, _JUDGED + (2 if arguments.quick else 20))]
    judged = traces.held_out()
    contenders = [PRODUCT, *BASELINES]
    if arguments.quick:
        judged = list({trace.family: trace for trace in judged}.values())
    if arguments.traces:
        judged += traces.of_folder(arguments.traces)
    with multiprocessing.Pool() as pool:
        if arguments.tune:
            tune(arguments.tune, lambda tasks: pool.map(_work, tasks, chunksize=1))
            return
        tasks = [(contender, trace, natures) for contender in [*contenders, None] for trace in judged]
        results = pool.map(_work, tasks, chunksize=1)
    scores: Scores = defaultdict(list)
    for (contender, _, _), found in zip(tasks, results, strict=True):
        scores[contender.name if contender else _ORACLE] += found
    print(f"{len(natures)} jobs on each of {len(judged)} held-out traces; goal: backlog time of at most 60 s.")
    print("Tuned on:", "; ".join(trace.name for trace in traces.tuning()))
    print("Judged on:", "; ".join(trace.name for trace in judged))
    families = sorted({trace.family for trace in judged})
    (ratio, where), (of_job, job) = over_oracle(scores)
    figures = {
        "seeds": len(natures),
        "settings": {
            each.name: {key: value for key, value in each.settings.items() if key != "of"} for each in contenders
        },
        "scores": {
            name: {
                trace.name: {
                    figure: round(_mean([score for score in of if score.trace == trace.name], figure), 2)
                    for figure in Score._fields[3:]
                }
                for trace in judged
            }
            for name, of in scores.items()
        },
        "dominated_by": {family: dominating(scores, family) for family in families},
        "worst_over_oracle": where,
        "worst_job_over_oracle": {job: round(of_job, 2)},
    }
    report = Report("autoscaler", figures)
    head = ["", "pod hours", "min > 10 s", "min > 60 s", "min > 300 s", "p50 s", "p99 s", "max s", "rescales", "flips"]
    report.table([*head, "min paused", "worst trace: min > 60 s"], _rows(scores))
    for family in families:
        rows = {name: _of_family(of, family) for name, of in scores.items()}
        cells = (f"{name} {_mean(of, 'pod_hours'):.1f}/{_mean(of, 'slo_60'):.0f}" for name, of in rows.items())
        print(
            f"{family}: {'; '.join(cells)}; better than ours in both: {', '.join(dominating(scores, family)) or 'none'}"
        )
    print(f"Farthest from the oracle: {where}: {ratio:.2f} times its pod hours; of single jobs {job}: {of_job:.2f}")
    if arguments.plot:
        plot(scores, arguments.plot)
    goals = [
        Goal("families_off_the_pareto_front", sum(bool(dominating(scores, family)) for family in families), 0, True),
        Goal("baselines_better_in_both_over_all", len(dominating(scores)), 0, True),
        Goal("pod_hours_over_oracle_on_worst_trace", ratio, GOAL_ORACLE, True),
    ]
    report.finish_all(arguments.json, goals)


if __name__ == "__main__":
    main()
