"""What operators and administrators have done."""
