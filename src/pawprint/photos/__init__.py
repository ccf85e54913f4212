"""Raw photographs: where they come from (sources), which are bad (check), who decides (correct), which side (split)."""
