"""What surrounds a gateway where it is shown or tested: brokers and a cloud."""
