module inlet/bench/openloop

go 1.24
