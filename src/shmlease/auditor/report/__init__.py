"""A report in the form that is asked for: text, JSON, SARIF, JUnit, annotations, a page, a trace."""
