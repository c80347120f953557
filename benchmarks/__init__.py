"""Side by side with FireWorks, in one run: ratios and counts."""
