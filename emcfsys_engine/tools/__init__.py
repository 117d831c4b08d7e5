"""What needs pixels but no torch: check, convert, measure, demo, report, doctor."""
