"""How good each candidate is (metrics, plots), whether it may become champion (gate), and the table (summary)."""
