"""Many sites as central operations see them: from MQTT alone."""
