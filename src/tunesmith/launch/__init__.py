"""Where a run happens: the processes of this machine."""
