//! The alert that a breached rule raises, and its wire form (`schemas/alert.v1.json`).
