"""Sound files become fixed-rate mono waveforms, segments and features."""
