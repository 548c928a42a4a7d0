"""Collection, selection and checks of a run before models are loaded."""
