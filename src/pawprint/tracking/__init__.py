"""What each run was given and what it gave (runs), and which model is best (registry). The only MLflow user."""
