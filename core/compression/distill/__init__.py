"""Distillation: a network learns from one that answers better; which class carries out which spec."""
