"""The gateway's side of the MQTT link: takes events up, brings acknowledgements down."""
