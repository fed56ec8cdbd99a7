"""The report as a wandb artifact: page, law, plan, and the cells as a table."""

from pathlib import Path

from analysis.page.contents import Material

MODES = ("offline", "online")
PROJECT = "scaling"  # as log.project has it by default


def mirror_report(material: Material, page: Path, *, mode: str, project: str = PROJECT) -> None:
    """Log a written report; offline it is kept in the study's folder for `wandb sync`.

    RuntimeError where wandb does not take it, after which the page is still there.
    """
    import wandb

    study = material.folder.name
    try:
        with wandb.init(
            project=project,
            group=study,
            job_type="report",
            name=f"report-{study}",
            tags=[study],
            mode=mode,  # type: ignore[arg-type]
            dir=material.folder,
        ) as run:
            artifact = wandb.Artifact(f"report-{study}", type="report")
            for path in (page, material.folder / "law.json", material.folder / "plan.yaml"):
                if path.is_file():
                    artifact.add_file(str(path))
            cells = wandb.Table(dataframe=material.cells())
            artifact.add(cells, "cells")
            run.log_artifact(artifact)
            run.log({"cells": cells, "report": wandb.Html(str(page))})
    except (wandb.Error, OSError) as error:
        raise RuntimeError(f"{page} is written, but wandb did not take it: {error}") from error
