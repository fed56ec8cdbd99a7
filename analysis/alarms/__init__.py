"""What looks wrong in a table or a fit, each as a sentence with a code."""
