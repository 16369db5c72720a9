//! What the tests of Headwater share: conformance suites, datasets, servers.
