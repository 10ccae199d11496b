"""Pure values and rules: what a record, a decision, a door and an event are."""
