"""Empty: importing the real one takes seconds, and these tests are about Apex."""
