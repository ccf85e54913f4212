"""What one client, or one local user, sends stops no answer for the others: one test a kind of attack."""

from service_process import processes


def test_no_port_is_open_but_the_services_own(service: str) -> None:
    """The supervisor under `bentoml serve` takes commands; on a TCP port any local user could give them."""
    ports = {
        each.laddr.port
        for process in processes(service)
        for each in process.net_connections()
        if each.status == "LISTEN"
    }
    assert ports == {int(service.rpartition(":")[2])}
