"""The brokers of the demo, for tests."""

from demo.brokers import Broker, Certificates, certificates, mosquitto, nats

__all__ = ["Broker", "Certificates", "certificates", "mosquitto", "nats"]
