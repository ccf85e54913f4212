"""Raw photographs: where they come from (sources), which are bad (check), who goes to which side (split)."""
