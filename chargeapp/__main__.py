from chargeapp.commands import main

main()
