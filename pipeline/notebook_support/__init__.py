"""Functions of the notebooks: tables, figures and tiny trainings."""
