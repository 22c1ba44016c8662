from ..options import Options, option


class DemoOptions(Options):
    """Which server is tried, and where the page is."""

    command = "demo"

    url: str = option("127.0.0.1:8000", help="host:port of the Triton server's HTTP.")
    host: str = option("127.0.0.1", help="IPv4 address that the page is served on.")
    port: int = option(8080, minimum=0, maximum=65535, help="Port of the page; 0 takes a free one.")
    timeout: float = option(60.0, minimum=0.001, help="Seconds for one request to the server.")
