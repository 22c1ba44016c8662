import json
import shlex

from ..batches.options import BatchOptions
from .output import print_json, print_result
from .parameters import add_command


@add_command(BatchOptions)
def batch(options: BatchOptions) -> None:
    """Answer many images and write Parquet tables.

    Each image ends in one row of results/ or of failures/. A run that was stopped or killed goes on
    when the same command is given again.

    Example: `dfvt-deploy batch photos --model dfvt_s_classification --output answers`
    """
    from ..batches.run import batch as answer_images

    run = answer_images(options)
    record, rate = run.record, run.images_per_second
    print_json({**record.model_dump(mode="json"), "images_per_second": round(rate, 2)})
    table = run.output / ("failures" if record.failed else "results")
    name = json.dumps(str(table), ensure_ascii=False)
    show = f"import pyarrow.parquet as pq; print(pq.read_table({name}))"
    print_result(
        f"{run.output}: {record.answered:,} of {record.images:,} images answered, "
        f"{record.failed:,} failed, {rate:.1f} images/s",
        shlex.join(["python", "-c", show]),
    )
