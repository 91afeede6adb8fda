module inlet/bench/go_article

go 1.24
