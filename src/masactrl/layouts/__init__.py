"""Layouts: pictures that say where things go, for ControlNet and T2I-Adapter."""
