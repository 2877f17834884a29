"""What a run is: frozen typed sections, one YAML, dotted overrides."""
