"""What Triton is told about its metrics and traces."""

from dataclasses import dataclass

from ..errors import BadInput
from ..options import Options, option

#: The service that traces name.
_SERVICE = "dfvt-deploy"

#: Quantiles of the latest minute beside the sums; Triton's default is sums alone.
SUMMARIES = ("--metrics-config=summary_latencies=true",)


@dataclass(frozen=True, kw_only=True)
class MonitoringOptions(Options):
    """Where the server sends OpenTelemetry traces."""

    trace_url: str | None = option(
        None,
        envvar="DFVT_TRACE_URL",
        help="Send traces to an OpenTelemetry collector, such as http://127.0.0.1:4318/v1/traces.",
    )
    trace_every: int = option(
        100,
        minimum=1,
        envvar="DFVT_TRACE_EVERY",
        help="Trace one request of so many.",
    )

    def check(self) -> None:
        if self.trace_url is None:
            self.refuse("is for --trace-url; give the address of a collector", "trace_every")
        if self.trace_url is not None and not self.trace_url.startswith(("http://", "https://")):
            raise BadInput(
                f"--trace-url {self.trace_url} must begin with http:// or https://; a collector "
                "takes OTLP over HTTP at port 4318, path /v1/traces"
            )

    @property
    def monitoring(self) -> tuple[str, ...]:
        """Triton's options for metrics and traces."""
        if self.trace_url is None:
            return SUMMARIES
        settings = (
            "mode=opentelemetry",
            f"opentelemetry,url={self.trace_url}",
            f"opentelemetry,resource=service.name={_SERVICE}",
            "level=TIMESTAMPS",
            f"rate={self.trace_every}",
        )
        return (*SUMMARIES, *(f"--trace-config={setting}" for setting in settings))
