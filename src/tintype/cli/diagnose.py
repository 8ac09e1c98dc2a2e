"""Why a run is as it is: the verb ``diagnose``."""

from __future__ import annotations

from tintype.cli.options import AsJson, RunPath
from tintype.cli.telling import print_json


def diagnose(run: RunPath, as_json: AsJson = False) -> None:
    """Say what went wrong in a RUN, or may have, and what to do: finished, failed or unfinished."""
    from tintype.console import show_findings, stdout_console
    from tintype.diagnosis import diagnose as find
    from tintype.diagnosis.facts import read_facts
    from tintype.rundir import RunDir

    facts = read_facts(RunDir(run))
    findings = find(facts)
    if as_json:
        print_json({"run": run, "findings": findings, "not_seen": facts.missing})
        return
    console = stdout_console()
    show_findings(findings, console)
    if not findings:
        console.print("nothing wrong was found")
    if facts.missing:
        console.print(f"not seen, as the run left none: {', '.join(facts.missing)}", style="dim", soft_wrap=True)
