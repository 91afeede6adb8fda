module inlet/bench/delay

go 1.24
