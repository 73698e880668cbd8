"""The suite for accelerators: start, attention, decoding, updates and episodes on one device."""
