//! Links, addresses, routes and rules.
