//! Fakes and shared test suites.
