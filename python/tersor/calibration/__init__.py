"""Calibration on a few unlabelled inputs: input statistics, sensitivity, error compensation."""
