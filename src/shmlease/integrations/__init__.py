"""shmlease in other people's frameworks, each on the public interface alone."""
