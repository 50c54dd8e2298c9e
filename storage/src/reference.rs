//! Image references: docker's grammar, parsed once.
