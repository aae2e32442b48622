"""Attribution graphs: the arrays and what is read off them (`arrays`, no torch); how they are made (`closed_form`)."""
