"""Workers as processes: started, kept, recognised again."""
