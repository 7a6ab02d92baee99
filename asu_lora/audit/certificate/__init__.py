"""The signed certificate of an audit: what was asked, done and tried, and what that does not prove."""
