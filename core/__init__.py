"""What the processes of Modelpress share; imports neither `api` nor `workers`."""
